package fcapi

import (
	"fmt"
	"reflect"
	"strings"
)

// UnsupportedError says that the running Firecracker does not know a field or an endpoint. Nothing was sent.
type UnsupportedError struct {
	What    string // e.g. "PUT /serial" or "the field vsock_override of PUT /snapshot/load"
	Since   Version
	Running Version
}

func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("Firecracker %s does not know %s; version %s does", e.Running, e.What, e.Since)
}

// since reads a version that is written in this package's source.
func since(s string) Version {
	v, err := ParseVersion(s)
	if err != nil {
		panic("fcapi: " + err.Error())
	}
	return v
}

// unknownField returns the first field in body, at any depth, that is set and newer than running.
func unknownField(body reflect.Value, running Version) (name string, first Version, found bool) {
	switch body.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !body.IsNil() {
			return unknownField(body.Elem(), running)
		}
	case reflect.Slice:
		for i := range body.Len() {
			if name, first, found = unknownField(body.Index(i), running); found {
				return name, first, true
			}
		}
	case reflect.Struct:
		for i := range body.NumField() {
			field, value := body.Type().Field(i), body.Field(i)
			if value.IsZero() {
				continue
			}
			if tag := field.Tag.Get("since"); tag != "" && running.Compare(since(tag)) < 0 {
				return jsonName(field), since(tag), true
			}
			if name, first, found = unknownField(value, running); found {
				return name, first, true
			}
		}
	}
	return "", Version{}, false
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}
