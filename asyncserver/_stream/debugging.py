"""What is different in asyncio's debug mode."""

from asyncio.log import logger

from asyncserver._stream.protocol import StreamProtocol

__all__ = ("SlowStepsProtocol",)


class SlowStepsProtocol(StreamProtocol):
    """In debug mode: says which handler has held up the loop, as loops say it of callbacks.

    A loop sees only the reading transport in which the handler goes on.
    """

    __slots__ = ()

    def resume_now(self) -> None:
        start = self.loop.time()
        super().resume_now()
        seconds = self.loop.time() - start
        if seconds >= self.loop.slow_callback_duration:
            logger.warning("Executing %r took %.3f seconds", self.task, seconds)
