// Sorts a table by the column whose heading is clicked: by data-value where a cell has one, else by its text.
for (const heading of document.querySelectorAll("table.sortable th")) {
  heading.tabIndex = 0;
  const sort = () => {
    const body = heading.closest("table").tBodies[0];
    const column = heading.cellIndex;
    const up = heading.getAttribute("aria-sort") !== "ascending";
    const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const [m, n] = [Number(x), Number(y)];
      const order = isNaN(m) || isNaN(n) ? x.localeCompare(y) : m - n;
      return up ? order : -order;
    };
    body.append(...[...body.rows].sort(compare));
    for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
  };
  heading.addEventListener("click", sort);
  heading.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
}

// The interactive figures: every choice of a menu keeps the lines of each table that agree with it. A line with an empty
// value in the menu's column belongs to every choice; a column that a table lacks is no condition.
const explorer = document.getElementById("explore");
if (explorer) {
  const figures = JSON.parse(document.getElementById("explore-figures").textContent);
  const settings = JSON.parse(document.getElementById("explore-settings").textContent);
  explorer.hidden = false;
  Bokeh.embed.embed_item(figures, "explore-target").then(() => {
    const document_ = Bokeh.documents.at(-1);
    const tables = settings.tables.map((name) => {
      const source = document_.get_model_by_name(name);
      return { source, whole: source.data };
    });
    const menus = [...explorer.querySelectorAll("select")];
    const choose = () => {
      const chosen = Object.fromEntries(menus.map((menu) => [menu.name, menu.value]));
      const key = settings.axis_menus.map((menu) => chosen[menu]).join("|");
      for (const { source, whole } of tables) {
        const length = whole[Object.keys(whole)[0]].length;
        const kept = [];
        for (let line = 0; line < length; line++) {
          const agrees = ([name, value]) =>
            value === "" || !(name in whole) || whole[name][line] === "" || whole[name][line] === value;
          if (Object.entries(chosen).every(agrees)) kept.push(line);
        }
        const data = {};
        for (const name of Object.keys(whole)) data[name] = kept.map((line) => whole[name][line]);
        const bound = settings.bindings[source.name] ?? {};
        for (const [target, columns] of Object.entries(bound)) data[target] = data[columns[key]];
        source.data = data;
      }
      for (const { name, labels } of settings.axes) {
        const axis = document_.get_model_by_name(name);
        axis.axis_label = labels[key];
      }
      explorer.dataset.lines = tables.map(({ source }) => `${source.name}:${source.data[Object.keys(source.data)[0]].length}`).join(" ");
    };
    for (const menu of menus) menu.addEventListener("change", choose);
    choose();
    explorer.dataset.ready = "true";
  });
}
