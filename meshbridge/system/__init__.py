"""What every part needs of the operating system: names that survive a power cut, threads that are started again."""
