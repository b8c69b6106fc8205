// The request as a command and as a program, to be copied and run.

import { hasKey } from "../service.js";

/** A body with a line for each of its parts, their values as `written`. */
function lines(body, written = JSON.stringify) {
  const parts = Object.entries(body).map(([name, value]) => `  ${JSON.stringify(name)}: ${written(value)}`);
  return `{\n${parts.join(",\n")}\n}`;
}

/** The request as a curl command for a POSIX shell. A key is named, never shown. */
export function curl(url, body) {
  const key = hasKey() ? ` \\\n  -H "authorization: Bearer $BMAML_KEY"` : "";
  const quoted = lines(body).replaceAll("'", "'\\''");
  return `curl -s ${url} -H 'content-type: application/json'${key} -d '${quoted}'`;
}

/** A value of JSON in Python, which writes truth values in another way. */
function inPython(value) {
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(inPython).join(",")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const parts = Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}:${inPython(each)}`);
  return `{${parts.join(",")}}`;
}

/** The request as a Python program. */
export function python(url, body, shown) {
  const key = hasKey() ? `, headers={"authorization": f"Bearer {os.environ['BMAML_KEY']}"}` : "";
  return [
    ...(hasKey() ? ["import os", ""] : []),
    "import httpx",
    "",
    `body = ${lines(body, inPython)}`,
    `reply = httpx.post(${JSON.stringify(url)}, json=body${key}, timeout=30)`,
    "reply.raise_for_status()",
    'prediction = reply.json()["prediction"]',
    `print(prediction[${JSON.stringify(shown[0])}], prediction[${JSON.stringify(shown[1])}])`,
  ].join("\n");
}
