"""From a JPEG file to a picture and to what the task says of it."""
