"""What is compared: each peer is one module that writes its configuration and starts its process."""
