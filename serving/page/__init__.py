"""The page for people: a forecast one looks at, in English and Chinese. `blocks.build(pipe)` makes it."""
