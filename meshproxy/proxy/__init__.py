"""The way of a request. `pipeline` is the place to begin reading."""
