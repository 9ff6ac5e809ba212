"""The commands, one file each. They parse options, call the code that does the work, and print the result."""
