"""One file a rule; `contract` holds what every rule has to do, `real` trains small nets."""

import pytest

pytest.register_assert_rewrite(f"{__name__}.contract")
