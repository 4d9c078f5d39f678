package business

// Look is one run of what Run does again and again.
var Look = (*Service).look
