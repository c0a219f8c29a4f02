// The permalink: settings are kept in the query of the address. trimkit.web.links reads them.
// Until the page has been opened with what the address says, the address stays as it is.
window.trimkitOpened = false;
window.trimkitLink = function (changes) {
  const url = new URL(window.location.href);
  if (!window.trimkitOpened) return url.href;
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === "") url.searchParams.delete(name);
    else url.searchParams.set(name, value);
  }
  window.history.replaceState(null, "", url);
  return url.href;
};
window.trimkitOpen = function () {
  window.trimkitOpened = true;
  return window.location.href;
};
