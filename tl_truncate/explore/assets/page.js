// The page on localhost: the view, a socket to the server, and the address as memory.
import { render } from "./explore.js";

const PAUSE = 500; // milliseconds between two tries to connect, twice as long after each
const LONGEST = 5000;

function socket() {
  const heard = [], changed = [];
  let open = null, pause = PAUSE;
  const tell = (all, what) => all.forEach((each) => each(what));

  function connect() {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const line = new WebSocket(`${scheme}//${location.host}/socket${location.search}`);
    line.onopen = () => { open = line; pause = PAUSE; tell(changed, "open"); };
    line.onmessage = (event) => tell(heard, JSON.parse(event.data));
    line.onclose = () => {
      open = null;
      tell(changed, "lost");
      setTimeout(connect, pause);
      pause = Math.min(2 * pause, LONGEST);
    };
  }

  return {
    send: (message) => open?.send(JSON.stringify(message)),
    listen: (each) => heard.push(each),
    watch: (each) => { changed.push(each); connect(); },
  };
}

const state = {
  load() {
    try {
      return JSON.parse(decodeURIComponent(location.hash.slice(1)));
    } catch (problem) {
      if (problem instanceof SyntaxError || problem instanceof URIError) return {}; // an address of somebody else's
      throw problem;
    }
  },
  save: (value) => history.replaceState(null, "", `#${encodeURIComponent(JSON.stringify(value))}`),
};

addEventListener("hashchange", () => location.reload()); // another address was put into an open page

render({ transport: socket(), el: document.getElementById("explore"), state });
