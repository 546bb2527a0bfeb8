"""Physics: optics, specimens, camera noise, stage dynamics. Arrays in, arrays out, seeded, on a virtual clock."""
