// The list of classes: which one is painted, how much of the region each has, and what the model guesses of it.

import { inkOn } from "./palette.js";

const KEYS = 9; // the first classes have a key

export class Classes {
  /** `onChoose(c)`: a class is to be painted; `onAccept(c)`: the guess of it is right. */
  constructor(list, search, names, onChoose, onAccept) {
    Object.assign(this, { list, search, names, onChoose, onAccept });
    this.chosen = 0;
    this.rows = names.map((name, c) => this.row(name, c));
    list.append(...this.rows.map(({ item }) => item));
    search.addEventListener("input", () => this.filter());
    search.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.preventDefault();
      event.stopPropagation();
      const found = this.rows.findIndex(({ item }) => !item.hidden);
      if (event.key === "Enter" && found >= 0) this.onChoose(found);
      search.value = "";
      this.filter();
      document.querySelector("#viewport").focus();
    });
  }

  row(name, c) {
    const make = (tag, className, text = "") =>
      Object.assign(document.createElement(tag), { className, textContent: text });
    const item = make("li", "");
    const choose = make("button", "choose");
    const accept = make("button", "accept", "accept");
    const swatch = make("span", "swatch", c < KEYS ? String(c + 1) : "");
    const share = make("span", "share");
    choose.append(swatch, make("span", "name", name), share);
    choose.title = c < KEYS ? `${name}  ${c + 1}` : name;
    accept.title = `Accept the guess of ${name}` + (c < KEYS ? `  Shift+${c + 1}` : "");
    accept.setAttribute("aria-label", accept.title);
    choose.addEventListener("click", () => this.onChoose(c));
    accept.addEventListener("click", () => this.onAccept(c));
    accept.hidden = true; // until there is a guess
    item.append(choose, accept);
    return { item, choose, accept, swatch, share };
  }

  recolour(colours) {
    this.rows.forEach(({ swatch }, c) => {
      swatch.style.backgroundColor = `rgb(${colours[c].join(" ")})`;
      swatch.style.color = inkOn(colours[c]);
    });
  }

  choose(c) {
    this.chosen = c;
    this.rows.forEach(({ choose, item }, other) => {
      item.classList.toggle("chosen", other === c);
      choose.setAttribute("aria-pressed", other === c);
    });
    this.rows[c].item.scrollIntoView({ block: "nearest" });
  }

  /** Show how many of the pixels each class has, and of which classes a guess is left to accept. */
  update(painted, guessed, pixels) {
    this.rows.forEach(({ share, accept }, c) => {
      share.textContent = painted[c] ? percent(painted[c], pixels) : "";
      accept.hidden = !guessed[c];
    });
  }

  filter() {
    const wanted = this.search.value.trim().toLowerCase();
    this.rows.forEach(({ item }, c) => {
      item.hidden = !this.names[c].toLowerCase().includes(wanted);
    });
  }
}

export function percent(part, whole) {
  const share = (100 * part) / whole;
  return share > 0 && share < 1 ? "< 1 %" : share < 100 && share > 99 ? "> 99 %" : `${Math.round(share)} %`;
}
