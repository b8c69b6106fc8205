// Tabs by the ARIA pattern: arrows move and open, Home and End too; the address remembers the tab.

/** Wire the tabs of a tablist; `opened(id)` is called with the panel that shows, the first one included. */
export function tabs(list, opened) {
  const all = [...list.querySelectorAll("[role=tab]")];
  const panel = (tab) => document.getElementById(tab.getAttribute("aria-controls"));

  function open(tab, focus) {
    for (const each of all) {
      each.setAttribute("aria-selected", String(each === tab));
      each.tabIndex = each === tab ? 0 : -1;
      panel(each).hidden = each !== tab;
    }
    if (focus) tab.focus();
    history.replaceState(null, "", `#${panel(tab).id}`);
    opened(panel(tab).id);
  }

  for (const tab of all) tab.addEventListener("click", () => open(tab, false));
  list.addEventListener("keydown", (event) => {
    const at = all.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: -1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    open(all.at(to % all.length), true);
  });
  open(all.find((tab) => `#${panel(tab).id}` === location.hash) ?? all[0], false);
}
