"""What folders and archives hold, and where; nothing is unpacked."""
