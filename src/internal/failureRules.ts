/**
 * The vocabulary of failures as data: codes, sentences and network errors, each with the reason it stands for.
 *
 * @internal
 */
import type { ErrorClass, Reason } from "../LLMError.ts"
import { normalise } from "./evidence.ts"

const words = (...sources: ReadonlyArray<string>): RegExp => new RegExp(sources.join("|"))

type Table = ReadonlyArray<readonly [reason: Reason, codes: string]>

const index = (table: Table): ReadonlyMap<string, Reason> => {
  const map = new Map<string, Reason>()
  for (const [reason, codes] of table) {
    for (const code of codes.trim().split(/\s+/)) {
      const key = normalise(code)
      if (!map.has(key)) map.set(key, reason)
    }
  }
  return map
}

/**
 * Codes that mean one thing whatever the status is.
 *
 * @internal
 */
export const decisiveCodes = index([
  [
    "premature_close",
    `provider_disconnected upstream_disconnect stream_incomplete stream_truncated MidStreamFallbackError`
  ],
  [
    "content_filter",
    `content_filter content_filtered content_policy_violation content_policy_error ContentPolicyViolationError
    ContentPolicyError ResponsibleAIPolicyViolation invalid_prompt moderation_blocked moderation_error
    content_moderation image_content_policy_violation data_inspection_failed DataInspectionFailed DataInspection
    prohibited_content PROHIBITED_CONTENT BLOCKLIST SPII IMAGE_SAFETY SAFETY sensitive_words_detected
    cyber_policy_violation guardrail_intervened GuardrailRaisedException safety_violation unsafe_content_error
    content_blocked refusal RAI_FILTERED SensitiveContentDetected InputTextSensitiveContentDetected
    OutputTextSensitiveContentDetected content_policy_violation_error policy_violation prompt_blocked`
  ],
  [
    "context_length_exceeded",
    `context_length_exceeded context_length_error context_window_exceeded model_context_window_exceeded
    ContextWindowExceededError exceed_context_size_error context_too_long context_limit_exceeded prompt_too_long
    input_too_long max_context_length_exceeded tokens_limit_reached string_above_max_length context_overflow
    token_limit_exceeded max_prompt_tokens_exceeded model_max_prompt_tokens_exceeded context_length_limit_exceeded
    ContextOverflowError input_length_exceeded`
  ],
  [
    "model_not_found",
    `model_not_found model_not_available model_not_exist invalid_model model_decommissioned model_deprecated
    model_retired DeploymentNotFound deployment_not_found ModelNotFound ModelNotFoundException unknown_model
    no_such_model unsupported_model model_not_supported InvalidEndpointOrModel resource_not_found_error
    ResourceNotFoundException model_unavailable_for_account model_not_active ModelNotOpen
    InvalidEndpointOrModel.NotFound ModelNotFoundError MODEL_NOT_FOUND unknown_deployment model_not_allowed`
  ],
  [
    "insufficient_quota",
    `insufficient_quota insufficient_user_quota insufficient_balance insufficient_funds insufficient_credits
    insufficient_credit credit_balance_too_low credits_exhausted no_credits exceeded_current_quota_error
    billing_error payment_required billing_hard_limit_reached pre_consume_token_quota_failed QuotaExhaustedError
    BudgetExceededError budget_exceeded out_of_credits quota_not_enough key_limit_exceeded spend_limit_exceeded
    billing_quota_exceeded account_balance_not_enough insufficient_account_balance FreeQuotaExhausted
    AllocationQuota.FreeTierOnly`
  ],
  [
    "billing_disabled",
    `billing_not_active BILLING_DISABLED Arrearage AccountOverdueError account_overdue account_in_arrears
    billing_inactive InsufficientAccountStatus subscription_required billing_not_enabled`
  ],
  [
    "expired_credential",
    `ExpiredToken ExpiredTokenException token_expired expired_token api_key_expired key_expired expired_key
    expired_api_key ACCESS_TOKEN_EXPIRED session_expired RequestExpired TokenExpiredError invalid_grant
    credentials_expired SignatureExpired`
  ],
  [
    "invalid_key",
    `invalid_api_key incorrect_api_key incorrect_api_key_error invalid_authentication_error invalid_authentication
    api_key_invalid InvalidApiKey no_api_key missing_api_key api_key_not_found key_not_found token_not_found_in_db
    auth_error mismatched_organization mismatched_project invalid_organization invalid_project CREDENTIALS_MISSING
    ACCESS_TOKEN_TYPE_UNSUPPORTED UnrecognizedClientException InvalidSignatureException SignatureDoesNotMatch
    IncompleteSignature IncompleteSignatureException MissingAuthenticationToken MissingAuthenticationTokenException
    InvalidClientTokenId InvalidAccessKeyId invalid_token wrong_api_key api_key_disabled api_key_revoked
    LoadAPIKeyError AI_LoadAPIKeyError invalid_iam_token CredentialsProviderError MODEL_AUTHENTICATION
    API_KEY_SERVICE_BLOCKED invalid_bearer_token missing_authorization_header no_auth_header INVALID_LOGIN`
  ],
  [
    "permission_denied",
    `insufficient_permissions missing_scope ACCESS_TOKEN_SCOPE_INSUFFICIENT SERVICE_DISABLED CONSUMER_INVALID
    CONSUMER_SUSPENDED IAM_PERMISSION_DENIED model_permission_blocked_org model_permission_blocked_project
    model_terms_required organization_restricted organization_disabled organization_deactivated account_deactivated
    account_suspended account_disabled user_deactivated user_suspended team_model_access_denied
    key_model_access_denied user_model_access_denied project_archived project_disabled organization_not_verified
    oauth_org_not_allowed`
  ],
  [
    "region_blocked",
    `unsupported_country_region_territory unsupported_country RegionError region_not_supported unsupported_region
    unsupported_location region_not_allowed LOCATION_POLICY_VIOLATED country_not_supported geo_blocked`
  ],
  [
    "ip_blocked",
    `ip_not_authorized ip_not_allowed ip_blocked ip_restricted API_KEY_IP_ADDRESS_BLOCKED
    API_KEY_HTTP_REFERRER_BLOCKED PublicAccessDisabled PublicNetworkAccessDisabled SECURITY_POLICY_VIOLATED
    cloudflare_blocked`
  ],
  [
    "unsupported_parameter",
    `unsupported_parameter unsupported_value unknown_parameter extra_forbidden OperationNotSupported
    UnsupportedParamsError unrecognized_parameter UnsupportedSchemaError unsupported_feature unsupported_tool_use
    unsupported_api_version parameter_not_supported UnsupportedFunctionalityError AI_UnsupportedFunctionalityError
    unsupported_content_type_error unsupported_format not_supported_error not_implemented_error`
  ],
  [
    "tool_use_failed",
    `tool_use_failed json_validate_failed output_parse_failed MALFORMED_FUNCTION_CALL UNEXPECTED_TOOL_CALL
    TOO_MANY_TOOL_CALLS INVALID_TOOL_RESULTS tool_call_validation_failed ToolParameterValidationError`
  ]
])

/**
 * Codes that name a family, which the sentence or the status may refine.
 *
 * @internal
 */
export const familyCodes = index([
  [
    "rate_limit",
    `rate_limit_exceeded rate_limit_error rate_limited rate_limit rate_limit_reached rate_limit_reached_error
    RateLimitReached RateLimitError too_many_requests TooManyRequestsException TooManyRequestsError Throttling
    ThrottlingException ThrottledException Throttled throttling_error ThrottlingError resource_exhausted
    resource-exhausted ResourceExhaustedError rpm_rate_limit_exceeded tpm_rate_limit_exceeded
    rps_rate_limit_exceeded limit_exceeded LimitExceededException requests_limit_exceeded tokens_limit_exceeded
    user_rate_limit_exceeded rateLimitExceeded userRateLimitExceeded quotaExceeded quota_exceeded QUOTA_EXCEEDED
    dailyLimitExceeded daily_limit_exceeded Throttling.RateQuota Throttling.AllocationQuota Throttling.User
    limit_requests limit_burst_rate LimitBurstRate model_rate_limit MODEL_RATE_LIMIT QuotaExceeded
    ServiceQuotaExceededException RequestLimitExceeded usage_limit_reached usage_limit_exceeded usage_not_included
    EndpointRPMExceeded EndpointTPMExceeded ModelAccountRpmRateLimitExceeded ModelAccountTpmRateLimitExceeded
    ModelAccountIpmRateLimitExceeded AccountRateLimitExceeded SlowDownException
    ProvisionedThroughputExceededException RequestThrottled RequestThrottledException BandwidthLimitExceeded
    PriorRequestNotComplete TransactionInProgressException 1300 1302 1303 throttling_exception free_models_per_day
    free_models_per_min acceleration_limit_exceeded model_cooldown`
  ],
  [
    "concurrency",
    `concurrency_limit_exceeded too_many_concurrent_requests max_concurrency_reached concurrency_limit
    concurrent_requests_limit rate_limit_concurrency max_parallel_requests too_many_connections RequestBurstTooFast
    concurrency`
  ],
  [
    "overloaded",
    `overloaded_error overloaded engine_overloaded engine_overloaded_error engine_overloaded_error_type
    server_overloaded server_is_overloaded model_overloaded service_unavailable ServiceUnavailable
    ServiceUnavailableException ServiceUnavailableError service_unavailable_error unavailable
    service_tier_capacity_exceeded 3505 MODEL_CAPACITY_EXHAUSTED capacity_exceeded no_capacity NoCapacity slow_down
    ModelNotReadyException server_busy ServerBusy system_overloaded insufficient_system_resource ServerOverloaded
    model_loading ModelLoading flex_tier_capacity_exceeded out_of_capacity temporarily_unavailable
    InsufficientCapacity InsufficientCapacityException 1305 engine_busy system_busy SystemBusy queue_full
    capacity_error`
  ],
  [
    "gateway_timeout",
    `timeout_error deadline_exceeded request_timeout gateway_timeout upstream_timeout ModelTimeoutException
    RequestTimeout RequestTimeoutException engine_timeout GatewayTimeoutError RequestTimeOut DeadlineExceeded
    timeout InternalServiceTimeout`
  ],
  ["client_abort", "cancelled client_closed_request request_cancelled"],
  [
    "permission_denied",
    `permission_error PermissionDenied permission_denied PermissionDeniedError access_denied AccessDenied
    AccessDeniedException AccessDeniedError forbidden request_forbidden NotAuthorized AuthorizationError
    NotAuthorizedException not_allowed OptInRequired ForbiddenException permission_denied_error OperationDenied`
  ],
  [
    "invalid_key",
    `authentication_error AuthenticationError unauthenticated unauthorized UnauthorizedException invalid_credentials
    not_authenticated AuthError authentication_failed AuthenticationException invalid_auth InvalidKey MissingKey
    AuthenticationFailed authenticationfailed UnauthorizedError`
  ],
  ["expired_credential", `ExpiredKey`],
  [
    "payload_too_large",
    `request_too_large payload_too_large request_entity_too_large content_too_large RequestEntityTooLarge
    entity.too.large`
  ],
  [
    "invalid_response",
    `InvalidResponseError InvalidOutputError StructuredOutputError DecodeError AI_TypeValidationError
    AI_JSONParseError AI_InvalidResponseDataError AI_NoObjectGeneratedError invalid_response
    AI_NoContentGeneratedError ResponseValidationError APIResponseValidationError`
  ],
  ["empty_response", "EmptyBodyError AI_EmptyResponseBodyError empty_response"],
  [
    "internal_error",
    `internal_server_error InternalServerError server_error ServerError internal_error api_error internal
    InternalFailure InternalServerException internal_failure ModelErrorException ModelStreamErrorException
    InternalProviderError InternalServiceError upstream_error provider_error bad_gateway BadGatewayError
    backend_error backendError proxy_error data_loss processing_error engine_error vector_store_timeout
    internal_service_error DependencyFailedException FailedDependency upstream_provider_error conflict_error
    ConflictError aborted 3000`
  ]
])

/**
 * Codes that say no more than that the request was refused: they count when there is no status to go by.
 *
 * @internal
 */
export const vagueCodes = index([
  [
    "invalid_request",
    `invalid_request_error invalid_request InvalidRequestError bad_request BadRequest BadRequestError
    invalid_argument InvalidArgument ValidationException validation_error ValidationError failed_precondition
    out_of_range invalid_value missing_required_parameter invalid_type unprocessable_entity UnprocessableEntityError
    not_found_error not_found NotFoundError unimplemented already_exists invalid_json invalid_parameter
    InvalidParameter invalid_parameter_error invalid_image invalid_image_url invalid_image_format invalid_base64
    empty_array array_above_max_length integer_above_max_value integer_below_min_value decimal_above_max_value
    invalid_function_parameters invalid_schema invalid_encrypted_content AI_InvalidPromptError
    AI_InvalidArgumentError previous_response_not_found InvalidToolResultError ToolConfigurationError
    ToolkitRequiredError InvalidUserInputError ToolResultEncodingError ToolNotFoundError 1210 1213 1214`
  ],
  ["payload_too_large", `RequestTooLargeError`],
  ["client_timeout", `Timeout`]
])

// ---------------------------------------------------------------------------------------------------------------------
// sentences
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Which statuses a sentence may speak for; `none` is a failure without an error status.
 *
 * @internal
 */
export interface Phrase {
  readonly reason: Reason
  readonly pattern: RegExp
  readonly when: (status: number) => boolean
}

const notLimited = (status: number): boolean => status !== 429 && status !== 402
const refused = (status: number): boolean =>
  status !== 429 && status !== 402 && status !== 408 && status !== 413 && !(status >= 500)
const callersFault = (status: number): boolean => status === 0 || (status >= 400 && status <= 422 && refused(status))
const accessDenied = (status: number): boolean =>
  status === 0 || status === 400 || status === 401 || status === 403 || status === 404 || status === 407 ||
  status === 500
const forbidden = (status: number): boolean => status === 401 || status === 403
const paid = (status: number): boolean => status !== 413

const phrase = (reason: Reason, when: (status: number) => boolean, ...sources: ReadonlyArray<string>): Phrase => ({
  reason,
  when,
  pattern: words(...sources)
})

/**
 * Sentences that are as good as a code, the most specific first. They are matched against lower-cased text.
 *
 * @internal
 */
export const phrases: ReadonlyArray<Phrase> = [
  phrase(
    "request_exceeds_limit",
    (status) => status === 413 || status === 429 || status === 400 || status === 0,
    "request too large for[^]{0,200}(?:per min|per day|per hour|\\btp[md]\\b|limit:? \\d)",
    "tokens? (?:requested|in your request) exceeds? (?:your|the) [^.]{0,40}(?:per minute|per day|rate limit)",
    "single request[^.]{0,60}exceeds?[^.]{0,40}(?:rate|quota|limit)"
  ),
  phrase(
    "permission_denied",
    (status) => refused(status),
    "guardrail restrictions|data policy|model training policy|privacy settings",
    "organization (?:has been|is|was) (?:disabled|restricted|deactivated|suspended|banned)",
    "account (?:has been |is |was )?(?:been )?(?:deactivated|suspended|disabled|restricted|terminated|banned|blocked)",
    "account associated with this api key has been|only authorized for use|not authorized to (?:perform|access|use)",
    "must be verified to use|verify organization|(?:permission|access) (?:'[^']{1,80}' )?(?:is |was )?denied on\\b",
    "insufficient permissions?|missing scopes?|无权|没有权限"
  ),
  phrase(
    "permission_denied",
    // A gateway hides a refusal behind its own 5xx; only the words of an access control are believed there.
    (status) => status >= 500,
    "not authorized to perform|permission '[^']{1,80}' denied on"
  ),
  phrase(
    "region_blocked",
    refused,
    "(?:countr(?:y|ies)|region|territor(?:y|ies)|user location|your location)[^.]{0,40}(?:not (?:currently )?(?:supported|available|allowed|permitted)|unsupported|restricted)",
    "(?:not (?:currently )?(?:supported|available|allowed|permitted|offered)|unsupported|unavailable)[^.]{0,40}(?:your |this |unsupported )?(?:countr(?:y|ies)|\\bregions?\\b|territor(?:y|ies)|user location)",
    "embargoed|geo-?blocked|地区不(?:支持|可用)"
  ),
  phrase(
    "unsupported_parameter",
    callersFault,
    "unsupported (?:parameter|value|feature|operation)|unknown (?:parameter|name|field)",
    "unrecognized (?:request )?(?:argument|field|parameter)",
    "extra (?:inputs|fields|inputs?) (?:are )?not (?:permitted|allowed)|additional properties are not allowed",
    "unexpected keyword argument",
    "not supported (?:with|by|for|in) (?:this|the|your|that|current) (?:model|deployment|api|version|engine|endpoint)",
    "(?:not|only) (?:supported|available|allowed|enabled|compatible)[^.]{0,20} (?:with|when|by|for|in) (?:speculative|`?stream|non-?stream|reasoning|thinking|api version|tool)",
    "enabled only for api versions|no endpoints found that support",
    "does(?: not|n't) support (?!the (?:request|model))",
    "(?:parameter|argument|option|field|options|role|tools?|tool calling|function calling|images?|json mode|response_format|stream_options|logprobs|temperature|top_p|stop|thinking|reasoning|budget|system (?:role|prompt|message|instruction))['`\"]?(?: \\w{1,20})?(?:,? which)? (?:is|are) not (?:supported|available|enabled|permitted|allowed)",
    "[a-z]_[a-z]{2,30}['`\"]? (?:is|are) not (?:supported|available|enabled|permitted|allowed)",
    "function calling is not enabled|use 'max_completion_tokens'|is deprecated for this model",
    "cannot (?:both )?be (?:specified|set|used) (?:together|for this model|with this model)"
  ),
  phrase(
    "content_filter",
    (status) => refused(status),
    "content[ _-](?:filter|management polic|polic(?:y|ies)|moderation|exists risk)|content violates",
    "safety_check|safety (?:system|filter|reasons|settings|guidelines|policy|policies|checks?)",
    "usage (?:polic(?:y|ies)|guidelines)|acceptable use|terms of service violation|responsible ai|policy violation",
    "flagged (?:as|by|for|input)|was flagged|requires moderation|considered\\s+high\\s+risk|inappropriate content",
    "(?:blocked|rejected)[^.]{0,40}(?:safety|prohibited|moderation|blocklist)",
    "(?:prompt|response|request|input|output|content|candidate) (?:was|has been|is|were) (?:blocked|filtered)",
    "guardrail(?:s)? (?:intervened|blocked|violat)|harmful content",
    "(?:sensitive|unsafe|prohibited|offensive|illegal) (?:content|words?|information|material)",
    "limited access to this content|recitation",
    "敏感|违规|违禁|不安全|内容安全|高风险"
  ),
  phrase(
    "context_length_exceeded",
    notLimited,
    "context[ _-](?:length|window|size|limit)|long context[^.]{0,30}exceed",
    "maximum (?:prompt|input|sequence|model) length",
    "max(?:imum)?[ _](?:model[ _]len|seq[a-z]{0,5}[ _]len|input tokens|prompt tokens|input length)",
    "(?:prompt|input|request|conversation|message|messages|text|query)(?: token)?(?: length| count| size)?s? (?:is |are |was )?(?:too long|too many tokens)",
    "too many (?:input |prompt )?tokens: |too large for model with \\d",
    "(?:input|prompt|request)s?(?: token| tokens| length| token count| tokens count)s?[^.]{0,40}(?:exceed|is greater than|is longer than|must be (?:less|fewer|smaller)|must have less)",
    "exceeds?(?:ed)? (?:the )?(?:model'?s? )?(?:maximum|max|available|limit|allowed)[^.]{0,30}(?:tokens|context|input length|prompt length|token limit|token count)",
    "exceed(?:s|ed)? (?:the |your )?model(?:'s)? token limit|exceeds? the limit of \\d",
    "token (?:count|limit)[^.]{0,40}exceed(?!s? (?:rate|quota))|resulted in \\d+ tokens|requested \\d+ tokens",
    "request contains \\d+ tokens|your request has \\d+ input tokens|\\d tokens > \\d",
    "reduce (?:the length|your (?:prompt|input|message))|(?:messages|prompt) (?:to fit|too long)",
    "must have (?:less|fewer) than \\d+ tokens|no more than \\d+ tokens|greater than the context|kv cache|n_ctx|string too long",
    "(?:prompt|input) contains \\d+ tokens|`inputs` tokens \\+ `max_new_tokens`",
    "maximum allowed (?:input|token|length|number of (?:input )?tokens)",
    "larger than (?:the )?(?:maximum|max) (?:context|model)|range of input length",
    "(?:上下文|输入|提示|token|令牌|长度)[^。，]{0,12}(?:过长|太长|超过|超出|超长|上限)"
  ),
  phrase(
    "model_not_found",
    (status) => status === 0 || (status >= 400 && status <= 424 && refused(status)),
    "\\b(?:model|deployment|engine)s?\\b[^.\\n]{0,100}(?:\\.[^.\\n]{0,40}){0,4}(?:does not exist|not found|doesn't exist|do not exist|not exist|is not available|isn't available|not supported|deprecated|decommissioned|no longer (?:available|supported)|end of (?:its )?life|is unknown|not recognized|not loaded|retired|been shut ?down|discontinued|is not a valid|is not valid|not (?:currently )?served|is invalid|not allowed to be|not enabled)",
    "(?:invalid|unknown|unsupported|no such|nonexistent|unrecognized) model|no endpoints found for",
    "no allowed providers|not found the model|not a valid model",
    "(?:does|do) not have access to (?:the )?(?:model|deployment)",
    "don't have access to the model|no access to (?:the )?model",
    "could not (?:resolve|find) the (?:foundation )?model|pull(?:ing)? (?:it|the model) first",
    "no models? (?:loaded|provider|found)|model:? [^ ]{1,80} (?:was )?not found",
    "the api deployment for this resource does not exist|on-demand throughput isn.t supported|model_not_found",
    "模型(?:不存在|未找到|已下线)"
  ),
  phrase(
    "expired_credential",
    accessDenied,
    "(?:token|api[ _-]?key|credentials?|session|subscription key|signature|certificate key)\\b[^.]{0,50}\\bexpired",
    "expired (?:token|api[ _-]?key|credential|session|oauth)|signature (?:not yet current|expired)",
    "re-?authenticat|refresh your (?:existing )?token|token refresh failed"
  ),
  phrase(
    "invalid_key",
    (status) => accessDenied(status) || status === 422,
    "(?:invalid|incorrect|wrong|missing|malformed|bad|unknown|leaked|revoked|no|without an?|provide an?|provided|valid|empty) (?:api[ _-]?key|x-api-key|api[ _-]?token|api[ _-]?credentials?|auth(?:entication|orization)? (?:token|key|header|credentials?)|(?:access|bearer|id|auth|security|jwt) token|subscription key|bearer)(?! is)",
    "api[ _-]?key\\b[^.]{0,60}(?:invalid|incorrect|not valid|is missing|not found|is required|was not provided|not provided|is not set|is wrong|disabled|revoked|deleted|leaked|not exist|unauthorized|malformed|must be|not active|inactive)",
    "(?:api key|secret key|authorization header|auth header|credentials?) (?:is|are|was|were) (?:invalid|incorrect|missing|required|not)",
    "missing (?:bearer|authorization|authentication)|authentication (?:fails|failed|required)",
    "invalid (?:authentication|authorization|credentials)",
    "no (?:cookie )?auth(?:entication)? (?:credentials|header)|invalid token\\b|invalid proxy server token",
    "could not resolve authentication|didn't provide an api key|unregistered callers|couldn't find a secret",
    "could not find a secret|security token included in the request is invalid|signature we calculated",
    "unable to (?:load|locate) credentials|could not load (?:the )?(?:default )?credentials|no such user",
    "user not found|login required|please log ?in(?! ?to)|not logged in|unauthorized|密钥|令牌(?:无效|不存在)|无效的(?:令牌|api)",
    "未提供令牌|认证失败|鉴权失败"
  ),
  phrase(
    "insufficient_quota",
    paid,
    "insufficient[^.]{0,40}(?:balance|credits?\\b|funds?\\b|quota)|credit balance is (?:too low|insufficient)",
    "(?:used|exhausted|spent)(?: up)? (?:all|your)[^.]{0,30}credits?|out of (?:available )?credits?",
    "exceeded your[^.]{0,30}\\bcredits|(?:no|any|zero|negative) (?:remaining )?credits?\\b",
    "requires (?:more|at least)[^.]{0,20}credits?|only afford",
    "(?:balance|credits?) (?:is |are |has been |have been )?(?:too low|insufficient|not enough|exhausted|depleted|negative|used up)",
    "payment required|billing hard limit|never purchased credits|purchase (?:more )?credits",
    "(?:quota|balance) is not enough|account balance",
    "free (?:tier|trial|quota|credits?) (?:has |have )?(?:been )?(?:expired|exhausted|ended|used up|exceeded)",
    "out of (?:funds|quota)",
    "key limit exceeded|openrouter\\.ai/settings/(?:keys|credits)|budget (?:has been )?exceeded|exceededbudget",
    "over budget|prepay|top up your|please recharge|余额不足|欠费|(?:额度|配额)(?:不足|已用尽|已用完)|账户余额"
  ),
  phrase(
    "billing_disabled",
    paid,
    "account is not active|billing (?:is |has )?(?:not active|not enabled|been disabled|disabled|inactive)",
    "requires? billing to be enabled|enable billing|(?:overdue|unpaid) (?:payment|invoice|balance|bill)",
    "account is in good standing|account (?:is )?(?:in arrears|overdue)|past due"
  ),
  phrase(
    "monthly_quota",
    (status) => status === 0 || status >= 400,
    "reached your specified api usage limits?|regain access on|(?<!not your )usage limit",
    "monthly (?:usage|spend(?:ing)?|token|request|quota|included|cap|limit|api)",
    "(?:requests|tokens|calls|queries)(?: per | ?/ ?)(?:calendar )?month|per month limit|this month",
    "weekly (?:usage |rate |token )?limit|spend(?:ing)? (?:limit|cap)|monthly limit"
  ),
  phrase(
    "ip_blocked",
    forbidden,
    "firewall|virtual network|\\bvnet\\b",
    "\\bip (?:address )?(?:\\S{1,45} )?(?:is )?(?:not |un)(?:allowed|authorized|permitted)",
    "\\bip (?:address )?(?:\\S{1,45} )?(?:has been |is |was )?(?:blocked|banned|blacklisted|denied)|your ip",
    "request not allowed|cloudflare|attention required|just a moment|you have been blocked|sorry, you have been",
    "traffic denied|public access is disabled|private endpoint|unusual (?:traffic|activity)",
    "access from this (?:network|ip)|error code:? 10(?:06|07|08|09|10|15|20)|\\bwaf\\b|captcha",
    "verify you are human|access denied \\| "
  )
]

/**
 * Sentences about a limit.
 *
 * @internal
 */
export const limitWords = words(
  "rate[ -_]?limit|too quickly|too many (?:requests|tokens, please wait|connections|concurrent)|throttl",
  "quota (?:exceeded|exhausted|has been|limit|is exceeded)",
  "exceeded (?:your |the )?(?:[a-z]{1,12} ){0,2}(?:quota|rate|usage|allowance)|cool(?:ing)? ?down|out of (?:extra )?usage",
  "exhausted (?:your|the|this) [^.]{0,30}(?:quota|capacity|limit|usage)|quota will reset",
  "(?:requests?|tokens?|queries|calls) (?:per|/) ?(?:min|sec|hour|day)",
  "per[- ](?:minute|second|hour|day)\\)? (?:limit|exceeded)|resource (?:has been )?exhausted",
  "(?:token|request|usage|call|daily|hourly|minute) limit[^.]{0,40}(?:exceeded|reached)",
  "(?:reached|hit|exceeded|over) (?:your|the|its|my|our) [^.]{0,30}\\blimit\\b",
  "\\b[rt]p[mds]\\b[^.]{0,20}(?:limit|exceed)|请求过于频繁|(?:请求|调用)频率|频率限制|速率限制|限流|访问量过大"
)

/** @internal */
export const dailyWords = words(
  "per[- _]?day|/ ?day\\b|\\b[rtai]pd\\b|\\bdaily\\b|free-models-per-day|for (?:the|this) day|\\btoday\\b(?! at)",
  "(?:after|per) 86400 ?s|\\bby ?day\\b|bymodelbyday|userbyday|in 24 ?h|per 24 ?h|每日|每天|当日"
)

/** @internal */
export const monthlyWords = /per[- _]?(?:calendar )?month|monthly|\/ ?month\b|per[- _]?week|weekly/

/** @internal */
export const concurrencyWords =
  /concurren|too many (?:open )?connections|simultaneous|in[- ]flight|parallel requests|max_parallel_requests|并发/

/** @internal */
export const overloadWords = words(
  "overload|out of capacity|no capacity|(?:at|over) (?:full |max(?:imum)? )?capacity|insufficient capacity",
  "lack of capacity|capacity (?:constraint|limit|exceeded|issue|error)|(?:at|over) the moment",
  "high (?:demand|load|traffic|volume)|heavy (?:load|traffic)|peak load|too busy",
  "(?:is|are|currently|server|system|model|engine|service)(?: is| are)? (?:currently |too |very |temporarily )?busy",
  "slow down|model is (?:currently )?(?:loading|starting|warming)|currently loading|loading model|not ready",
  "resource exhausted\\. please try again|capacity for this model|temporarily (?:rate-limited|limiting)",
  "try again when|queue is full|server is temporarily|服务(?:器)?(?:繁忙|过载)|负载|系统繁忙"
)

/** @internal */
export const memoryWords = words(
  "requires more (?:system |gpu )?memory|out of memory|not enough memory|cuda error|\\boom\\b",
  "insufficient (?:gpu )?memory|cudamalloc|memory layout cannot be allocated"
)

/** Sentences that are believed only where nothing better is known. @internal */
export const lastResort: ReadonlyArray<readonly [Reason, RegExp]> = [
  [
    "payload_too_large",
    words(
      "(?:request|payload|entity|body|content|upload|file|attachments?)(?: entity| body| size)? (?:is )?(?:too large|too big)",
      "exceeds? the maximum (?:allowed )?(?:size|request size|payload)"
    )
  ],
  [
    "client_timeout",
    /timed? ?-?out|deadline exceeded|deadline has|took too long|超时/
  ],
  [
    "internal_error",
    words(
      "internal (?:server )?error|server had an error|something went wrong|bad gateway",
      "service (?:is |is temporarily |temporarily )?unavailable|temporarily unavailable",
      "\\bupstream\\b|provider returned error|unexpected error|unknown error",
      "(?:系统|内部|服务器|网络)(?:错误|异常)|暂时不可用",
      "compute error|error occurred (?:while|during)|an error occurred|server error|inference (?:error|failed)",
      "enginecore|engine (?:dead|died|process)|crashed|panicked",
      "runner (?:process )?(?:has )?(?:terminated|no longer)|exited unexpectedly"
    )
  ],
  [
    "client_abort",
    words(
      "\\b(?:request|operation|call|stream)? ?(?:was |has been |is )?(?:aborted|cancell?ed)(?: by (?:the )?(?:user|client|caller))?\\b"
    )
  ],
  [
    "invalid_request",
    words(
      "invalid (?:request|argument|parameter|value|input|json|format|type|body|message|messages|schema|url|image|role|tool)",
      "\\binvalid '|bad request|missing required|is required|is not (?:supported|allowed|permitted)",
      "must be (?:a|an|one|at|in|less|greater|between|provided|specified)|should be|failed to (?:deserialize|parse)",
      "validation (?:error|failed)|unprocessable|malformed|does not match|unable to (?:submit|parse)",
      "expected (?:a|an|one|string|object)|unexpected (?:field|role|parameter|value)|not a valid|参数"
    )
  ]
]

// ---------------------------------------------------------------------------------------------------------------------
// the network
// ---------------------------------------------------------------------------------------------------------------------

/**
 * Codes and names of Node, undici, axios, got, node-fetch, AWS, Python and Bun errors.
 *
 * @internal
 */
export const networkCodes = index([
  [
    "invalid_request",
    `ERR_INVALID_URL ERR_INVALID_PROTOCOL ERR_INVALID_CHAR ERR_INVALID_ARG_TYPE ERR_INVALID_ARG_VALUE
    ERR_UNESCAPED_CHARACTERS ERR_HTTP_INVALID_HEADER_VALUE ERR_INVALID_HTTP_TOKEN ERR_HTTP_INVALID_STATUS_CODE
    ERR_UNSUPPORTED_PROTOCOL ERR_BAD_OPTION ERR_BAD_OPTION_VALUE ERR_FR_TOO_MANY_REDIRECTS ERR_TOO_MANY_REDIRECTS
    UND_ERR_INVALID_ARG UND_ERR_NOT_SUPPORTED UND_ERR_REQ_CONTENT_LENGTH_MISMATCH UND_ERR_INVALID_RETURN_VALUE
    UND_ERR_MAX_REDIRECT ERR_SOCKET_BAD_PORT ERR_NOT_SUPPORT ERR_DEPRECATED InvalidUrlError EncodeError
    unsupported-redirect max-redirect invalid-redirect uri-requested-responds-with-an-invalid-redirect-url
    no-redirect ERR_INVALID_IP_ADDRESS ERR_FORM_DATA_TOO_LARGE ERR_HTTP_HEADERS_SENT MissingSchema InvalidSchema
    InvalidURL UnsupportedProtocol LocalProtocolError`
  ],
  ["connect_timeout", "UND_ERR_CONNECT_TIMEOUT ConnectTimeoutError ConnectTimeout ConnectionTimeout"],
  ["headers_timeout", "UND_ERR_HEADERS_TIMEOUT HeadersTimeoutError"],
  ["body_timeout", "UND_ERR_BODY_TIMEOUT BodyTimeoutError body-timeout ReadTimeoutError"],
  [
    "client_timeout",
    `ESOCKETTIMEDOUT APIConnectionTimeoutError APITimeoutError TimeoutError request-timeout ReadTimeout WriteTimeout
    PoolTimeout ERR_SOCKET_TIMEOUT ERR_HTTP2_STREAM_TIMEOUT ERR_SOCKET_CONNECTION_TIMEOUT ETIME RequestTimeoutError`
  ],
  [
    "client_abort",
    `ABORT_ERR ERR_CANCELED ECANCELED UND_ERR_ABORTED AbortError CanceledError CancelError APIUserAbortError
    ERR_ABORTED RequestAbortedError RequestAborted`
  ],
  [
    "conn_refused",
    `ECONNREFUSED ConnectionRefused FailedToOpenSocket ConnectionRefusedError NewConnectionError
    ERR_CONNECTION_REFUSED`
  ],
  [
    "dns",
    `ENOTFOUND EAI_AGAIN EAI_FAIL EAI_NODATA EAI_NONAME EAI_SERVICE EAI_SYSTEM ENODATA ESERVFAIL EREFUSED ENONAME
    EBADNAME DNSException ERR_DNS_SET_SERVERS_FAILED NameResolutionError gaierror ERR_NAME_NOT_RESOLVED DNS_ERROR
    EDNS ENODNS`
  ],
  [
    "tls",
    `DEPTH_ZERO_SELF_SIGNED_CERT SELF_SIGNED_CERT_IN_CHAIN UNABLE_TO_GET_ISSUER_CERT
    UNABLE_TO_GET_ISSUER_CERT_LOCALLY UNABLE_TO_VERIFY_LEAF_SIGNATURE UNABLE_TO_GET_CRL
    UNABLE_TO_DECRYPT_CERT_SIGNATURE CERT_HAS_EXPIRED CERT_NOT_YET_VALID CERT_REVOKED CERT_UNTRUSTED CERT_REJECTED
    CERT_SIGNATURE_FAILURE CERT_CHAIN_TOO_LONG CRL_HAS_EXPIRED CRL_NOT_YET_VALID INVALID_CA INVALID_PURPOSE
    PATH_LENGTH_EXCEEDED HOSTNAME_MISMATCH EPROTO ERR_TLS_CERT_ALTNAME_INVALID ERR_TLS_HANDSHAKE_TIMEOUT
    UND_ERR_PRX_TLS ERR_TLS_CERT_ALTNAME_FORMAT SSLError SSLCertVerificationError CERTIFICATE_VERIFY_FAILED`
  ],
  [
    "premature_close",
    `ERR_STREAM_PREMATURE_CLOSE UND_ERR_RES_CONTENT_LENGTH_MISMATCH IncompleteRead ChunkedEncodingError
    RemoteProtocolError aborted`
  ],
  [
    "conn_reset",
    `ECONNRESET EPIPE ENETRESET ENOTCONN ECONNABORTED UND_ERR_SOCKET UND_ERR_DESTROYED UND_ERR_CLOSED SocketError
    ClientDestroyedError ClientClosedError ERR_HTTP2_STREAM_ERROR ERR_HTTP2_SESSION_ERROR ERR_HTTP2_GOAWAY_SESSION
    ERR_HTTP2_INVALID_SESSION ERR_HTTP2_STREAM_CANCEL ERR_HTTP2_INVALID_STREAM ERR_HTTP2_ERROR ERR_SOCKET_CLOSED
    ERR_STREAM_DESTROYED ERR_STREAM_WRITE_AFTER_END ConnectionClosed ConnectionReset RemoteDisconnected
    ConnectionResetError ERR_CONNECTION_RESET ERR_CONNECTION_CLOSED BrokenPipeError ReadError WriteError
    ERR_STREAM_ALREADY_FINISHED`
  ],
  [
    "network",
    `EHOSTUNREACH ENETUNREACH ENETDOWN EHOSTDOWN EADDRNOTAVAIL EADDRINUSE EACCES EMFILE ENFILE ENOBUFS`
  ],
  [
    "invalid_response",
    `UND_ERR_RES_EXCEEDED_MAX_SIZE ERR_BODY_PARSE_FAILURE max-size ERR_BUFFER_TOO_LARGE ZlibError Z_DATA_ERROR
    Z_BUF_ERROR ERR_ENCODING_INVALID_ENCODED_DATA`
  ],
  [
    "protocol",
    `UND_ERR_HEADERS_OVERFLOW HTTPParserError ERR_HTTP_REQUEST_TIMEOUT UND_ERR_INFO UND_ERR_UPGRADE
    ERR_HTTP2_PROTOCOL_ERROR`
  ]
])

/** Names that only say that the network failed. @internal */
export const vagueNetworkCodes = index([
  [
    "network",
    `APIConnectionError ConnectionError FetchError ERR_NETWORK ERR_NETWORK_CHANGED NetworkError TransportError
    RequestError UND_ERR_BPL_MISSING_UPSTREAM UND_ERR_RETRY MaxRetryError ConnectError ERR_INTERNET_DISCONNECTED
    ERR_GOT_REQUEST_ERROR`
  ]
])

/**
 * Sentences about the network. They are matched against lower-cased text.
 *
 * @internal
 */
export const networkPhrases: ReadonlyArray<readonly [Reason, RegExp]> = [
  [
    "invalid_request",
    words(
      "\\bbad port\\b|unknown scheme|invalid url|failed to parse url|only absolute urls|only http\\(s\\) protocols",
      "protocol \"?[a-z]{2,12}:\"? not supported|unsupported protocol|invalid header (?:value|name)",
      "invalid character in header|url scheme .{1,20} is not supported|cannot convert .{0,40} to a bytestring",
      "redirect count exceeded|maximum redirect|unexpected redirect|no scheme supplied|method cannot have body"
    )
  ],
  [
    "tls",
    words(
      "before secure tls connection|self[- ]signed certificate",
      "certificate (?:has expired|verify failed|is not yet valid|is not trusted)",
      "unable to (?:verify the first|get (?:local )?issuer) certificate|does not match certificate",
      "wrong version number|ssl (?:routines|error|handshake)|sslv3 alert|tls (?:handshake|alert)",
      "certificate_verify_failed|sslerror|ssl_error|packet length too long"
    )
  ],
  [
    "dns",
    words(
      "getaddrinfo|name or service not known|temporary failure in name resolution|nodename nor servname",
      "could not resolve host|name resolution|failed to resolve|no address associated|dns (?:error|lookup|resolution)",
      "enotfound|eai_again|err_name_not_resolved|no such host"
    )
  ],
  [
    "connect_timeout",
    words(
      "connect timeout|connect(?:ion)? timed out|connect etimedout|connecttimeout",
      "timed out while (?:connecting|trying to connect)|timeout (?:while|when) connecting",
      "dial (?:tcp|udp)[^]{0,120}i/o timeout"
    )
  ],
  ["headers_timeout", /headers timeout/],
  ["body_timeout", /body timeout/],
  [
    "premature_close",
    words(
      "premature(?:ly)? (?:close|end|eof)|^aborted$",
      "stream (?:has been aborted|was reset|disconnected)|stream[_ ]read[_ ]error",
      "(?:stream|response) (?:was )?(?:completed|closed|ended|finished) (?:before|without|prematurely|unexpectedly|early)",
      "incomplete (?:chunked read|read|message)|without sending complete message",
      "unexpected (?:end of (?:file|stream|data)|eof)|connection closed (?:before|while|mid)",
      "response (?:body )?(?:ended|closed) (?:prematurely|early)|body object should|err_incomplete_chunked_encoding",
      "invalid chunk|peer closed connection without"
    )
  ],
  ["conn_refused", /econnrefused|connection refused|actively refused|err_connection_refused|connect: connection/],
  [
    "conn_reset",
    words(
      "socket hang up|other side closed|econnreset|epipe|broken pipe",
      "connection (?:was )?(?:reset|aborted|closed|lost|terminated|forcibly)|reset by peer|forcibly closed",
      "remote end closed|server disconnected|disconnected|refused_stream|goaway",
      "socket (?:connection )?(?:was )?(?:closed|ended)|this socket has been ended|err_connection_(?:reset|closed)",
      "reset before headers|http2 (?:stream|session)"
    )
  ],
  [
    "client_timeout",
    words(
      "timeout of \\d+ ?ms exceeded|network timeout at|i/o timeout|timeout awaiting|read(?:ing)? timed? ?out",
      "request timed out|timed out|aborted due to timeout|etimedout|deadline exceeded|\\btimeout\\b"
    )
  ],
  [
    "protocol",
    words(
      "does not match the http|http parser|parse error: |unsupported http|malformed (?:http|response)",
      "bad ?status ?line|invalid http response"
    )
  ],
  [
    "empty_response",
    words(
      "unexpected end of json|expecting value: line 1 column 1 \\(char 0\\)|empty response",
      "no (?:response|content) (?:body|received)|without (?:sending|returning) any"
    )
  ],
  [
    "invalid_response",
    words(
      "is not valid json|unexpected token|invalid json response|json ?decode ?error|expecting value|not a valid json",
      "in json at position|failed to parse (?:json|response|stream)|could not parse (?:the )?(?:json|response)",
      "bad control character|unterminated string|expected ',' or '[}\\]]'"
    )
  ],
  [
    "client_abort",
    words(
      "operation was aborted|request was aborted|user aborted|request aborted|aborterror|signal is aborted",
      "^cancell?ed$|the user aborted|was cancell?ed"
    )
  ],
  [
    "network",
    words(
      "fetch failed|failed to fetch|load failed|networkerror when|network error|network request failed",
      "connection error|cannot connect|could not connect|unable to connect|connection failure|network is unreachable",
      "no route to host|host is unreachable|net::err_|upstream connect error|max retries exceeded",
      "error sending request|connection attempt failed|proxy (?:connection|error)|tunneling socket|^terminated$"
    )
  ]
]

// ---------------------------------------------------------------------------------------------------------------------
// classes
// ---------------------------------------------------------------------------------------------------------------------

/** The class of a reason where the status does not change it. @internal */
export const classes: Readonly<Record<Reason, ErrorClass>> = {
  rate_limit: "rate_limit",
  daily_quota: "rate_limit",
  monthly_quota: "rate_limit",
  concurrency: "rate_limit",
  insufficient_quota: "authentication",
  billing_disabled: "authentication",
  request_exceeds_limit: "permanent",
  invalid_key: "authentication",
  expired_credential: "authentication",
  permission_denied: "authentication",
  region_blocked: "authentication",
  ip_blocked: "authentication",
  invalid_request: "permanent",
  unsupported_parameter: "permanent",
  context_length_exceeded: "permanent",
  content_filter: "permanent",
  model_not_found: "permanent",
  payload_too_large: "permanent",
  tool_use_failed: "permanent",
  overloaded: "server_error",
  capacity: "server_error",
  internal_error: "server_error",
  gateway_timeout: "timeout",
  html_error_page: "server_error",
  empty_response: "server_error",
  invalid_response: "server_error",
  conn_refused: "transient_network",
  conn_reset: "transient_network",
  dns: "transient_network",
  tls: "transient_network",
  protocol: "transient_network",
  premature_close: "transient_network",
  network: "transient_network",
  stream_truncated: "transient_network",
  connect_timeout: "timeout",
  headers_timeout: "timeout",
  body_timeout: "timeout",
  client_timeout: "timeout",
  first_token: "timeout",
  idle: "timeout",
  attempt: "timeout",
  deadline: "timeout",
  client_abort: "unknown",
  cooldown: "rate_limit",
  circuit_open: "server_error",
  queue_full: "rate_limit",
  queue_timeout: "rate_limit",
  budget_exhausted: "rate_limit",
  unknown: "unknown"
}
