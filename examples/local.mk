# Files that a user copies.
