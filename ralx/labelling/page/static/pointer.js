// Mouse, pen and fingers on the viewport: which of them paint, which move the picture.

/** Let pointers paint with `tools` and move `view`. */
export function listen(view, tools) {
  const { viewport } = view;
  const fingers = new Map();
  let isSpaceDown = false;
  let hand = null;
  let pinch = null;
  let hasPen = false;

  const place = (event) => view.toRegion(event.clientX, event.clientY);
  const isHeld = () => viewport.classList.toggle("held", isSpaceDown || hand !== null);

  function pinchOf() {
    const [a, b] = [...fingers.values()];
    return { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2, apart: Math.hypot(a.x - b.x, a.y - b.y) || 1 };
  }

  viewport.addEventListener("pointerdown", (event) => {
    if (!view.painting) return;
    viewport.focus({ preventScroll: true });
    hasPen ||= event.pointerType === "pen";
    if (event.pointerType === "touch") {
      fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      if (fingers.size === 2) {
        tools.cancel();
        hand = null;
        pinch = pinchOf();
        return;
      }
    }
    viewport.setPointerCapture(event.pointerId);
    const isPalm = event.pointerType === "touch" && hasPen; // who has a pen paints with it
    if (event.button === 1 || isSpaceDown || isPalm) {
      event.preventDefault();
      hand = { id: event.pointerId, x: event.clientX, y: event.clientY };
    } else if (fingers.size < 2) {
      tools.press(place(event), { erase: event.button === 2 || event.button === 5 });
    }
    isHeld();
  });

  viewport.addEventListener("pointermove", (event) => {
    if (!view.painting) return;
    if (fingers.has(event.pointerId)) fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (pinch && fingers.size === 2) {
      const now = pinchOf();
      const { left, top } = viewport.getBoundingClientRect();
      view.panBy(now.x - pinch.x, now.y - pinch.y);
      view.zoomBy(now.apart / pinch.apart, { x: now.x - left, y: now.y - top });
      pinch = now;
    } else if (hand?.id === event.pointerId) {
      view.panBy(event.clientX - hand.x, event.clientY - hand.y);
      Object.assign(hand, { x: event.clientX, y: event.clientY });
    } else if (!pinch) {
      const all = event.getCoalescedEvents?.() ?? [];
      tools.move((all.length ? all : [event]).map(place));
    }
  });

  function end(event) {
    fingers.delete(event.pointerId);
    if (!fingers.size) pinch = null;
    if (hand?.id === event.pointerId) hand = null;
    else if (event.type === "pointercancel") tools.cancel();
    else tools.lift();
    isHeld();
  }
  viewport.addEventListener("pointerup", end);
  viewport.addEventListener("pointercancel", end);
  viewport.addEventListener("pointerleave", () => tools.leave());
  viewport.addEventListener("contextmenu", (event) => event.preventDefault());
  viewport.addEventListener("auxclick", (event) => event.preventDefault());

  viewport.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      if (event.shiftKey) return tools.resize(Math.sign(-(event.deltaY || event.deltaX)));
      const { left, top } = viewport.getBoundingClientRect();
      const pixels = event.deltaY * (event.deltaMode ? 32 : 1) * (event.ctrlKey ? 4 : 1); // a pinch comes with Ctrl
      view.zoomBy(Math.exp(-Math.max(-240, Math.min(240, pixels)) / 480), {
        x: event.clientX - left,
        y: event.clientY - top,
      });
    },
    { passive: false },
  );

  return {
    space(isDown) {
      isSpaceDown = isDown;
      isHeld();
    },
  };
}
