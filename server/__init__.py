"""What runs beside the task network: decoding of files, folders and of what cameras send."""
