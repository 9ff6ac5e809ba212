"""The commands, one thin file each: they read options, call what does the work, and print."""
