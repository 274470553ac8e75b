"""An emulator of Cloud AI 100: a backend of npukit, the modules qaic and qaicrt, and the qaic-* tools."""
