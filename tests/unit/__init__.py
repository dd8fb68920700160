"""What can be told of the package without a server: real files, real threads, one process or a few."""
