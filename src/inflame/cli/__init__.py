"""The door: turns the words of a command into one call to one room, imported late."""
