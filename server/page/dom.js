// The page's own elements. What comes from the network is set as text only, never as markup.

export const element = (id) => document.getElementById(id);

export function say(target, text) {
  // a live region speaks whenever it is set
  if (target.textContent !== text) target.textContent = text;
}

export function make(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

export function fillTable(body, entries) {
  while (body.rows.length > entries.length) body.deleteRow(-1);
  entries.forEach(([name, text], index) => {
    if (index === body.rows.length) body.append(element("row").content.cloneNode(true));
    const [head, cell] = body.rows[index].cells;
    say(head, name);
    say(cell, text);
  });
}

export function fillFigures(list, entries) {
  while (list.children.length > entries.length) list.lastElementChild.remove();
  entries.forEach(([name, text, bad], index) => {
    if (index === list.children.length) {
      const group = make("div");
      group.append(make("dt"), make("dd"));
      list.append(group);
    }
    const [term, value] = list.children[index].children;
    say(term, name);
    say(value, text);
    value.classList.toggle("bad", Boolean(bad));
  });
}
