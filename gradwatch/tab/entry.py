"""Entry: what TensorBoard imports at its start; an error here would stop TensorBoard itself."""

from __future__ import annotations

import logging
from typing import Any

from tensorboard.plugins import base_plugin

logger = logging.getLogger("gradwatch")


class GradWatchLoader(base_plugin.TBLoader):  # type: ignore[misc]  # TensorBoard ships no types
    """Loads the tab; a fault of ours costs the tab and one warning, never TensorBoard."""

    def load(self, context: Any) -> Any:
        """The plugin; None, and a warning, if it cannot be loaded.

        Args:
            context: TensorBoard's `TBContext`.
        """
        try:
            from gradwatch.tab.plugin import GradWatchPlugin

            return GradWatchPlugin(context)
        except Exception as error:  # noqa: BLE001 -- TensorBoard goes on without the tab
            logger.warning(
                "gradwatch: TensorBoard shows no GradWatch tab, since it cannot be loaded (%r); "
                'run `pip install --upgrade "gradwatch[tensorboard]"`',
                error,
            )
            return None
