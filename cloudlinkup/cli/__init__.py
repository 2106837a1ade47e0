"""The command line: one file a group of commands. Heavy packages are imported inside the commands that need them."""
