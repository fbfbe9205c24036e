"""The command line: flags made of the settings, a function for each command."""
