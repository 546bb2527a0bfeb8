"""A seat inside an acquisition: corrections for a pymmcore-plus MDA, from its own frames, through guard and journal."""
