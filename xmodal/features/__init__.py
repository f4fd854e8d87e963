"""Raw items made into views: pictures and texts into vectors, and what is stored to do it again."""
