"""What turns an app into a process: the local server and the command line."""
