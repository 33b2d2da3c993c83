"""What a request will take of memory, from a bundle's manifest and graphs: nothing is loaded or run."""
