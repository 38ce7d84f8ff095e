-- Runs on requests to models whose answers have tokens, and on those of the OpenAI API. On the way to a model: whether the
-- client's budget of tokens is used up. On the way back: how many tokens the answer has and how it ended, for log, counters
-- and budget, and errors in the form of the OpenAI API.
--
-- What handle gives is fetched anew each time: it is dead after anything that waits.

local function saved(handle, name)
  local values = handle:streamInfo():dynamicMetadata():get(NAMESPACE)
  return values ~= nil and values[name] or nil
end

local function save(handle, name, value)
  handle:streamInfo():dynamicMetadata():set(NAMESPACE, name, value)
end

local function ask_budget(handle, headers, waits)
  headers[":method"], headers[":path"], headers[":authority"] = "GET", "/", TOKENS
  return handle:httpCall(TOKENS, headers, nil, 1000, not waits)
end

function envoy_on_request(handle)
  local headers = handle:headers()
  headers:replace(METERED_HEADER, "1")
  if string.sub(headers:get(":path"), 1, #PREFIX) == PREFIX then
    save(handle, "is_openai", true)
  end
  local client, budgets = headers:get(CLIENT_HEADER), handle:virtualHost():metadata():get("budgets")
  local per_minute = client ~= nil and budgets ~= nil and budgets[client] or nil
  if per_minute == nil then
    return
  end
  save(handle, "payer", client)
  local said = ask_budget(handle, { [CHECKED_HEADER] = client }, true)
  if said[":status"] == "429" then
    local missing = MOST_DEBT + 1 - (tonumber(said["x-ratelimit-remaining"]) or 0)
    local after_s = math.max(1, math.ceil(missing * 60 / per_minute))
    handle:respond({ [":status"] = "429", ["retry-after"] = string.format("%.0f", after_s) }, "")
  end
end

local function charge(handle, tokens)
  local payer = tokens > 0 and saved(handle, "payer") or nil
  if payer ~= nil then
    local headers = { [CHARGED_HEADER] = payer, [CHARGE_HEADER] = string.format("%.0f", tokens) }
    ask_budget(handle, headers, false)
  end
end

local function note(handle, prompt, answer, finish)
  save(handle, PROMPT_KEY, prompt)
  save(handle, ANSWER_KEY, answer)
  save(handle, FINISH_KEY, finish)
end

-- A worker's own words on an answer.
local function parse_told(text)
  local prompt, answer, finish = string.match(text, "^prompt=(%d+);answer=(%d+);finish=(%l+)%s*$")
  if prompt ~= nil and #prompt <= 9 and #answer <= 9 and #finish <= 16 then
    return tonumber(prompt), tonumber(answer), finish
  end
end

-- What a document of the API tells of its tokens. A name stands in it only as a name: in a text its quotes are escaped.
local function read_usage(text, told)
  local prompt = string.match(text, '"prompt_tokens"%s*:%s*(%d+)')
  if prompt ~= nil and #prompt <= 9 then
    told.prompt = tonumber(prompt)
    local answer = string.match(text, '"completion_tokens"%s*:%s*(%d+)')
    told.answer = answer ~= nil and #answer <= 9 and tonumber(answer) or 0
  end
  told.finish = told.finish or string.match(text, '"finish_reason"%s*:%s*"([%l_]+)"')
end

-- An answer in one piece without the worker's words, as vLLM gives it. Names and numbers stand behind the text.
local function whole(handle)
  local tail = ""
  for chunk in handle:bodyChunks() do
    tail = string.sub(tail .. chunk:getBytes(0, chunk:length()), -LONGEST_TAIL)
  end
  local told = {}
  read_usage(tail, told)
  if told.prompt ~= nil then
    note(handle, told.prompt, told.answer, told.finish or "stop")
    charge(handle, told.prompt + told.answer)
  end
end

local function read_line(line, told)
  local head = string.sub(line, 1, 6)
  if head == "data: " then
    if string.sub(line, 7, 12) == "[DONE]" then
      told.is_done = true
    else
      told.events = told.events + 1
      read_usage(line, told)
    end
  elseif string.sub(line, 1, #TOKENS_COMMENT) == TOKENS_COMMENT then
    local prompt, answer, finish = parse_told(string.sub(line, #TOKENS_COMMENT + 1))
    if prompt ~= nil and prompt + answer > 0 then -- a server whose worker is gone does not know
      told.prompt, told.answer, told.finish = prompt, answer, finish
    end
  elseif head == "event:" and string.find(line, "^event:%s*error") then
    told.is_failed = true
  end
end

-- How a stream ended, as far as it has come.
local function ended(told)
  if told.is_failed then
    return "error"
  end
  return told.is_done and (told.finish or "stop") or BROKEN
end

-- Until the worker says how many tokens there were, each event counts as one. A client that hangs up has paid for those that
-- were sent, but for the last few.
local function stream(handle)
  local told, rest, paid = { events = 0 }, "", 0
  note(handle, 0, 0, BROKEN)
  for chunk in handle:bodyChunks() do
    local size = chunk:length()
    if size == 0 and ended(told) == BROKEN then -- the node ended the stream, and the answer has no end
      chunk:setBytes(BROKEN_EVENT)
    end
    local text, from = rest .. chunk:getBytes(0, size), 1
    for line, behind in string.gmatch(text, "([^\n]*)\n()") do
      read_line(line, told)
      from = behind
    end
    rest = string.sub(text, from, from + LONGEST_LINE)
    local prompt, answer = told.prompt or 0, told.answer or told.events
    note(handle, prompt, answer, ended(told))
    local owed = prompt + answer - paid
    if owed >= PAID_AT_ONCE or told.prompt ~= nil or size == 0 then
      charge(handle, owed)
      paid = paid + owed
    end
  end
end

local function to_openai(handle, status)
  local body = handle:body(true)
  local document = body:getBytes(0, body:length())
  local kind = string.match(escaped_member(document, "type") or "", "([%w%-]+)$") or "error"
  local field = string.match(document, '"errors"%s*:%s*%[%s*{%s*"field"%s*:%s*"([%w_.%[%]]+)"')
  local message = escaped_member(document, "detail") or escaped_member(document, "title") or ""
  local class = TYPES[status] or (status < 500 and INVALID or FAILED)
  body:setBytes(string.format('{"error":{"message":"%s","type":"%s","param":%s,"code":"%s"}}',
    message, class, field ~= nil and '"' .. field .. '"' or "null", kind))
  handle:headers():replace("content-type", JSON)
  handle:headers():replace(":status", tostring(status == 422 and 400 or status))
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local status, media = tonumber(headers:get(":status")), headers:get("content-type") or ""
  if status >= 400 then
    if media == PROBLEM_MEDIA_TYPE and saved(handle, "is_openai") then
      to_openai(handle, status)
    end
    return
  end
  local told = headers:get(TOKENS_HEADER)
  if told ~= nil then
    local prompt, answer, finish = parse_told(told)
    if prompt ~= nil then
      note(handle, prompt, answer, finish)
      charge(handle, prompt + answer)
    end
  elseif string.sub(media, 1, #EVENT_STREAM) == EVENT_STREAM then
    stream(handle)
  elseif string.sub(media, 1, #JSON) == JSON then
    whole(handle)
  end
end
