// What the page says: a line that goes away, a banner that stays while something is wrong, a card to answer.

const $ = (selector) => document.querySelector(selector);
let timer;

export function toast(text) {
  const line = $("#toast");
  line.textContent = text;
  line.classList.add("shown");
  clearTimeout(timer);
  timer = setTimeout(() => line.classList.remove("shown"), Math.max(2500, 60 * text.length));
}

/** A line that stays until it is called with none. */
export function banner(text) {
  $("#banner").hidden = !text;
  $("#banner").textContent = text || "";
}

/** A card over the region. `buttons`: [text, what it does]; the first is the one that Enter presses. */
export function card({ title, text, lines = [], buttons = [] }) {
  $("#card").hidden = false;
  $("#card-title").textContent = title;
  $("#card-text").textContent = text;
  showLines(lines);
  $("#card-buttons").replaceChildren(
    ...buttons.map(([label, act], i) => {
      const button = Object.assign(document.createElement("button"), {
        textContent: label,
        className: i ? "" : "primary",
      });
      button.addEventListener("click", act);
      return button;
    }),
  );
  $("#card-buttons button")?.focus();
}

export function showLines(lines) {
  $("#card-lines").hidden = !lines.length;
  $("#card-lines").textContent = lines.join("\n");
}

export function closeCard() {
  $("#card").hidden = true;
}

export const isCardOpen = () => !$("#card").hidden;
