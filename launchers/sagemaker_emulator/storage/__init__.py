"""What the emulator stores: records, objects, and their transfer."""
