"""Weather or food: two labels, what they mean, and four texts of each, for tests of real classifiers."""

from __future__ import annotations

DESCRIPTIONS = {
    "weather": ["The sky, rain, wind and sun.", "A forecast of storms or of sunshine."],
    "food": ["Meals, cooking and taste.", "A recipe, a dish or a restaurant."],
}
TRAIN = {
    "weather": ["rain all day long", "a cold wind from the north", "sunny until evening", "snow is coming"],
    "food": ["the soup was salty", "bake it for an hour", "a plate of fried rice", "she cooked dinner"],
}
