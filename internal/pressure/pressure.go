// Package pressure tells how short of memory the host is.
package pressure

import "errors"

// ErrUnknown is returned where the host does not tell.
var ErrUnknown = errors.New("the host does not tell how short of memory it is")
