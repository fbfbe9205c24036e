"""What a public host needs around the page: profiles, limits, log, health, ZeroGPU. Knows no widgets."""
