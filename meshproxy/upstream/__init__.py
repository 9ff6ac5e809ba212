"""The other side: model servers, their connections, and which of them takes the next request."""
