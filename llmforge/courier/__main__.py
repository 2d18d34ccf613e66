"""``python -m llmforge.courier RUN_DIRECTORY``."""

import sys

from llmforge.courier.process import main
from llmforge.streams import protect_streams

protect_streams("stderr", keep_running=True)
sys.exit(main(sys.argv[1:]))
