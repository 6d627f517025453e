"""From models and attacks to rates of the concept before and after."""
