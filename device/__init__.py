"""What runs beside the camera: sources of frames, rate control, delivery, and the program that joins them."""
