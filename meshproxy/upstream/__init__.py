"""Model servers: their endpoints and connections, and which endpoint gets the next request."""
