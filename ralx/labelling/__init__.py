"""People label their own images: projects, the formats that labels come back in, and the page to paint on."""
