// The theme, the state of the service, and the question for a key.

import { byId, say } from "./dom.js";
import { asksForKey, service } from "./service.js";

/** What a header can hold: no spaces, no typographic signs. */
const KEY = /^[\x21-\x7e]+$/;

/** The button that turns light to dark and back. */
export function themeButton() {
  const button = byId("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const dark = () => (root.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
  const show = () => {
    button.setAttribute("aria-pressed", String(dark()));
    document.dispatchEvent(new Event("theme"));
  };
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    localStorage.setItem("theme", root.dataset.theme);
    show();
  });
  system.addEventListener("change", show);
  show();
}

/** The line that says when the service is away. */
export function serverLine() {
  service.addEventListener("state", ({ detail }) => say(byId("server"), detail.words));
}

/** The dialog that asks for a key when the service refuses to answer without. */
export function keyDialog() {
  const dialog = byId("key");
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  dialog.addEventListener("close", () => {
    if (!byId("key-value").value)
      say(byId("server"), "Without a key this service does not answer: reload the page.");
  });
  asksForKey(
    (refusal) =>
      new Promise((given) => {
        byId("key-value").value = "";
        dialog.showModal();
        say(byId("key-problem"), refusal);
        byId("key-form").onsubmit = (event) => {
          const key = byId("key-value").value.trim();
          if (KEY.test(key)) given(key);
          else {
            event.preventDefault();
            say(byId("key-problem"), "A key has no spaces and no typographic signs, such as curly quotes.");
          }
        };
      }),
  );
}
