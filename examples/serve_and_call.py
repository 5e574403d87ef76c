"""Start the server and call it as a client of OpenAI's chat: python examples/serve_and_call.py [IMAGE] [TEXT]."""

import base64
import json
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from urllib.request import Request, urlopen


def main() -> None:
    """Serve nano on a free port, ask one question over HTTP, and stop the server."""
    source = Path(sys.argv[1] if len(sys.argv) > 1 else str(files("unipixel") / "examples" / "picture.png"))
    text = sys.argv[2] if len(sys.argv) > 2 else "Please segment the dog."
    picture = f"data:image/png;base64,{base64.b64encode(source.read_bytes()).decode()}"
    content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": text}]
    body = json.dumps({"model": "nano", "messages": [{"role": "user", "content": content}]}).encode()

    command = [sys.executable, "-m", "unipixel", "serve", "--port", "0", "--no-state"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            address = next(found[0] for line in server.stderr if (found := re.search(r"http://\S+", line)))
            asked = Request(f"{address}/v1/chat/completions", body, {"Content-Type": "application/json"})
            with urlopen(asked) as reply:
                message = json.load(reply)["choices"][0]["message"]
        finally:
            server.terminate()
    print(message["content"])
    for found in message["unipixel"]["objects"]:  # masks are COCO RLE, one for each frame
        print(f"object {found['id']}: score {found['score']}, box {found['boxes_xyxy'][0]}")


if __name__ == "__main__":
    main()
