// What keys do, outside of fields to type in.

const REPEATED = "[]+=-zys"; // a key that is held down goes on doing these
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** `keys`: what each key does; `digit(n, isShifted)`; `arrow([dx, dy], isShifted)`; `space(isDown)`; `undo`, `redo`. */
export function listenToKeys({ keys, digit, arrow, space, undo, redo }) {
  addEventListener("keydown", (event) => {
    const { target, key } = event;
    if (target.matches("input[type=search], dialog input") || document.querySelector("dialog[open]")) return;
    const act = actionOf(event);
    if (!act) return;
    event.preventDefault();
    act();
  });
  addEventListener("keyup", ({ key }) => key === " " && space(false));
  addEventListener("blur", () => space(false));

  function actionOf(event) {
    const { target, key, code, shiftKey } = event;
    const letter = key.toLowerCase();
    if (!event.getModifierState("AltGraph")) {
      // which some keyboards need for brackets
      if (event.ctrlKey || event.metaKey) return { z: shiftKey ? redo : undo, y: redo }[letter];
      if (event.altKey) return null;
    }
    if (target.matches("button, input") && [" ", "Enter"].includes(key)) return null; // presses it
    if (target.matches("input") && ARROWS[key]) return null; // moves it
    if (key === " ") return () => space(true);
    if (ARROWS[key]) return () => arrow(ARROWS[key], shiftKey);
    if (event.repeat && !REPEATED.includes(letter)) return null;
    const number = /^(?:Digit|Numpad)([1-9])$/.exec(code)?.[1]; // by its place: not every keyboard has it unshifted
    if (number) return () => digit(Number(number), shiftKey);
    return keys[key] ?? keys[letter];
  }
}
