"""Where a call goes, once it may go at all."""
