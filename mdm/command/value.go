package command

// Convert returns a dictionary of a property list that may have keys, from values as of
// Build: what a command's Build does to its params, for other property lists. of is what has
// the keys, and path where in stands, for errors. These are *ParamError.
func Convert(path, of string, in map[string]any, keys []Key) (map[string]any, error) {
	return builder{requestType: of}.dictionary(path, in, keys, 0)
}

// Convert returns what stands for the JSON value v in a property list, if v is one of k: see
// the function of this name.
func (k Key) Convert(path string, v any) (any, error) {
	return builder{requestType: path}.value(path, v, k, 0)
}
