module edge

go 1.26

require (
	github.com/lxzan/gws v1.9.1
	github.com/valyala/fastjson v1.6.10
)

require github.com/klauspost/compress v1.17.9 // indirect
