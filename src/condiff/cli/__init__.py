"""The command line; nothing here imports torch before a verb runs."""
