"""The vendor's command-line tools on the emulator."""
