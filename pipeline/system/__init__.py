"""What every part needs of the machine: files, cores, memory, processes, faults, progress."""
