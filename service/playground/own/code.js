// The request as a command and as a program, to be copied and run.

import { hasKey } from "../service.js";

/** A body with a line for each of its parts. */
function lines(body) {
  const parts = Object.entries(body).map(
    ([name, value]) => `  ${JSON.stringify(name)}: ${JSON.stringify(value)}`,
  );
  return `{\n${parts.join(",\n")}\n}`;
}

/** The request as a curl command for a POSIX shell. A key is named, never shown. */
export function curl(url, body) {
  const key = hasKey() ? ` \\\n  -H "authorization: Bearer $BMAML_KEY"` : "";
  const quoted = lines(body).replaceAll("'", "'\\''");
  return `curl -s ${url} -H 'content-type: application/json'${key} -d '${quoted}'`;
}

/** The request as a Python program. The body is strings, numbers and lists alone: Python as much as JSON. */
export function python(url, body, shown) {
  const key = hasKey() ? `, headers={"authorization": f"Bearer {os.environ['BMAML_KEY']}"}` : "";
  return [
    ...(hasKey() ? ["import os", ""] : []),
    "import httpx",
    "",
    `body = ${lines(body)}`,
    `reply = httpx.post(${JSON.stringify(url)}, json=body${key}, timeout=30)`,
    "reply.raise_for_status()",
    'prediction = reply.json()["prediction"]',
    `print(prediction[${JSON.stringify(shown[0])}], prediction[${JSON.stringify(shown[1])}])`,
  ].join("\n");
}
