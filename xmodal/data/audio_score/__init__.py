"""``audio_score``: pairs of sheet music and audio, engraved and played from public-domain scores."""
from xmodal.data.audio_score.prepare import play, prepare

__all__ = ["play", "prepare"]
